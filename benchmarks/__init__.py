from fleetwatch import kernelcache

kernelcache.use()  # before a part imports a kernel
