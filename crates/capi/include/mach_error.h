/* The older name of <mach/mach_error.h>. */
#ifndef _MACH_OLD_ERROR_H_
#define _MACH_OLD_ERROR_H_

#include <mach/mach_error.h>

#endif
