"""`make up` and `make down`: a demonstration node in QEMU, and the virtual machine that tests boot."""
