/* What a call returns: 0 or one of these. */
#ifndef _MACH_KERN_RETURN_H_
#define _MACH_KERN_RETURN_H_

#include <mach/machine/kern_return.h>

#define KERN_SUCCESS 0
#define KERN_INVALID_ADDRESS 1       /* nothing is mapped there, or it lies outside the task */
#define KERN_PROTECTION_FAILURE 2    /* mapped, but not for this */
#define KERN_NO_SPACE 3              /* in use already, or no gap is large enough */
#define KERN_INVALID_ARGUMENT 4      /* a number no call of this kind takes */
#define KERN_FAILURE 5               /* could not be done; nothing more is known */
#define KERN_RESOURCE_SHORTAGE 6     /* no memory or other resource, perhaps only now */
#define KERN_NOT_RECEIVER 7          /* not the holder of the receive right */
#define KERN_NO_ACCESS 8             /* access is restricted */
#define KERN_MEMORY_FAILURE 9        /* the memory object is gone for good */
#define KERN_MEMORY_ERROR 10         /* the memory object could not give the data, perhaps only now */
#define KERN_ALREADY_IN_SET 11       /* member of the port set already */
#define KERN_NOT_IN_SET 12           /* member of no port set */
#define KERN_NAME_EXISTS 13          /* the port name is in use */
#define KERN_ABORTED 14              /* interrupted */
#define KERN_INVALID_NAME 15         /* the name stands for nothing */
#define KERN_INVALID_TASK 16         /* not a living task */
#define KERN_INVALID_RIGHT 17        /* the name stands for something else */
#define KERN_INVALID_VALUE 18        /* out of range */
#define KERN_UREFS_OVERFLOW 19       /* too many references under one name */
#define KERN_INVALID_CAPABILITY 20   /* not a usable port */
#define KERN_RIGHT_EXISTS 21         /* the task has the right under another name */
#define KERN_INVALID_HOST 22         /* not the host, or not the privileged one */
#define KERN_MEMORY_PRESENT 23       /* the data supplied is there already */
#define KERN_MEMORY_DATA_MOVED 24    /* for memory managers: the page went to a copy */
#define KERN_MEMORY_RESTART_COPY 25  /* not seen by programs */
#define KERN_INVALID_PROCESSOR_SET 26
#define KERN_POLICY_LIMIT 27
#define KERN_INVALID_POLICY 28
#define KERN_INVALID_OBJECT 29       /* the memory object did not start, or is none */
#define KERN_ALREADY_WAITING 30
#define KERN_DEFAULT_SET 31
#define KERN_EXCEPTION_PROTECTED 32
#define KERN_INVALID_LEDGER 33
#define KERN_INVALID_MEMORY_CONTROL 34
#define KERN_INVALID_SECURITY 35
#define KERN_NOT_DEPRESSED 36
#define KERN_TERMINATED 37           /* the object has been terminated */
#define KERN_LOCK_SET_DESTROYED 38
#define KERN_LOCK_UNSTABLE 39
#define KERN_LOCK_OWNED 40
#define KERN_LOCK_OWNED_SELF 41
#define KERN_SEMAPHORE_DESTROYED 42
#define KERN_RPC_SERVER_TERMINATED 43
#define KERN_RPC_TERMINATE_ORPHAN 44
#define KERN_RPC_CONTINUE_ORPHAN 45
#define KERN_NOT_SUPPORTED 46        /* no such service here */
#define KERN_NODE_DOWN 47
#define KERN_NOT_WAITING 48
#define KERN_OPERATION_TIMED_OUT 49
#define KERN_CODESIGN_ERROR 50
#define KERN_POLICY_STATIC 51
#define KERN_INSUFFICIENT_BUFFER_SIZE 52
#define KERN_DENIED 53
#define KERN_MISSING_KC 54
#define KERN_INVALID_KC 55
#define KERN_NOT_FOUND 56
#define KERN_RETURN_MAX 0x100

#endif
