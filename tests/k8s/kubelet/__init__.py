"""A kubelet that runs Pods as local processes. The rule: to the API server it is a node like any other."""
