/* mach_absolute_time and the numbers it is in. */
#include "check.h"
#include <mach/mach_time.h>
#include <time.h>

int main(void) {
    mach_timebase_info_data_t base = {0, 0};
    OK(mach_timebase_info(&base));
    CHECK(base.numer > 0 && base.denom > 0);
    RETURNS(KERN_INVALID_ARGUMENT, mach_timebase_info(NULL));
    uint64_t before = mach_absolute_time();
    struct timespec wait = {0, 20 * 1000 * 1000};
    nanosleep(&wait, NULL);
    uint64_t spent = (mach_absolute_time() - before) * base.numer / base.denom;
    CHECK(spent >= 20 * 1000 * 1000 && spent < 10ull * 1000 * 1000 * 1000);
    CHECK(mach_continuous_time() >= before && mach_approximate_time() + 1000000000 > before);
    CHECK(mach_continuous_approximate_time() > 0);
    return 0;
}
