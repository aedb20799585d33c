"""The stream worker: a Faust app around a pure core. See ARCHITECTURE.md for one sample's way through it."""
