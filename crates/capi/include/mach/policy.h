/* Scheduling policies; a task of the library has none to set. */
#ifndef _MACH_POLICY_H_
#define _MACH_POLICY_H_

typedef int policy_t;

#define POLICY_NULL 0
#define POLICY_TIMESHARE 1
#define POLICY_RR 2
#define POLICY_FIFO 4

#endif
