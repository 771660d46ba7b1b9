"""The supervisor: claims, decides, hands to children, settles. It never runs task code."""
