"""What each forget target does and costs: counted in gateways, kept by the control process."""
