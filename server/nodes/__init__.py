"""More than one machine: what the control process offers to nodes, and what a node does with it."""
