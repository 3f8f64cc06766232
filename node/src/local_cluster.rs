//! `--local-cluster N`: a cluster on this machine, of separate processes, for trying things out.
