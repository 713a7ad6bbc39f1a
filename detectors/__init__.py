"""Is this text about a forget target?"""
