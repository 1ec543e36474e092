"""The g8ufs engine: one FUSE session whose files are EROFS images over chunks."""
