"""Flist formats, packing, verification and the EROFS image of an flist."""
