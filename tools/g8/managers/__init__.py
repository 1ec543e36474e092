"""The managers of a client (pure): one class per family of commands, generic over how calls are made.

Every method is a flow (see g8tools.g8.flow), so that what is written here serves `client.Client` and
`aio.Client`. The names, parameters and results are those of the original client (spec core0-protocol 6.1);
what the node adds comes last and has defaults.
"""
