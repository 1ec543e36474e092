"""PID 1 duties: phases, network bring-up, shutdown."""
