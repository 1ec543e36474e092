"""`g8 flist`: pack directories and tar archives, list what an flist holds."""
