/* Tasks: address spaces without threads of their own, except the program's. */
#ifndef _task_user_
#define _task_user_

#include <mach/kern_return.h>
#include <mach/mach_types.h>
#include <mach/mig_errors.h>

#ifdef __cplusplus
extern "C" {
#endif

extern kern_return_t task_create(task_t target_task, ledger_array_t ledgers, mach_msg_type_number_t ledgersCnt,
                                 boolean_t inherit_memory, task_t *child_task);
extern kern_return_t task_terminate(task_t target_task);
extern kern_return_t task_info(task_name_t target_task, task_flavor_t flavor, task_info_t task_info_out,
                               mach_msg_type_number_t *task_info_outCnt);

#ifdef __cplusplus
}
#endif

#endif
