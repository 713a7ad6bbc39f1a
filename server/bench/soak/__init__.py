"""`lethegate bench soak`: mixed load for a long time, while processes die and policies change."""
