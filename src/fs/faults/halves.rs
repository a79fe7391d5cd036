//! Second halves that fail, and other faults that only one path meets.
