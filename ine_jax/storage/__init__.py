"""Files: atomic writes, hashes, run directories, and readers of files that are not trusted."""
