/* Error numbers as text. */
#ifndef _MACH_ERROR_
#define _MACH_ERROR_ 1

#include <mach/error.h>

#ifdef __cplusplus
extern "C" {
#endif

extern char *mach_error_string(mach_error_t error_value);
extern void mach_error(const char *str, mach_error_t error_value);
extern char *mach_error_type(mach_error_t error_value);

#ifdef __cplusplus
}
#endif

#endif
