"""The `g8` command line tool and the client library behind it."""
