"""The inference engines: how each is started, when it is ready, and which log lines mean which failure.

`base` has the specification and the interface, `registry` finds an engine by name; the rest is one file an engine.
(Nothing is imported here: the embedded server is a module of this package and starts at once.)
"""
