/* Ports of the host: the host itself, and the privileged one. */
#ifndef _MACH_HOST_SPECIAL_PORTS_H_
#define _MACH_HOST_SPECIAL_PORTS_H_

#define HOST_SECURITY_PORT 0
#define HOST_MIN_SPECIAL_PORT HOST_SECURITY_PORT
#define HOST_PORT 1
#define HOST_PRIV_PORT 2
#define HOST_IO_MAIN_PORT 3
#define HOST_MAX_SPECIAL_KERNEL_PORT 7
#define HOST_LAST_SPECIAL_KERNEL_PORT HOST_IO_MAIN_PORT

#define HOST_LOCAL_NODE -1

#define host_get_host_port(host, port) (host_get_special_port((host), HOST_LOCAL_NODE, HOST_PORT, (port)))
#define host_get_host_priv_port(host, port) (host_get_special_port((host), HOST_LOCAL_NODE, HOST_PRIV_PORT, (port)))

#endif
