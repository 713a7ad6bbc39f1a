"""Where does this span of text come from? (provenance)"""
