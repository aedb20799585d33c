"""Kafka in, by whole record batches. Everything that touches aiokafka's or Faust's internals is in this folder.

tests/integration/test_transport_contract.py fails loudly when those internals change.
"""
