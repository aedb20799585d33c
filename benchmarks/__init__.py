"""Measures the worker on the common job. The rule: nothing is reported that was not measured in this run."""

from fleetwatch import kernelcache

kernelcache.use()  # before a part imports a kernel
