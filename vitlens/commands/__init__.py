"""The commands of `vitlens`, one a file; they import what computes only when they run, so that help is instant."""
