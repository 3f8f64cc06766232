//! Administration of clusters.
