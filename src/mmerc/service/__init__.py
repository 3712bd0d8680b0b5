"""The service: REST over the models, for many clients at the same time; docs/service.md is the page on it.

app       puts the application together
server    runs it, from the start to an orderly end
guard     who may come in, how much, how slowly; logs and counts
batching  one thread computes, for all clients
"""
