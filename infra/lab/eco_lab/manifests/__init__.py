"""What the lab applies to its cluster: DNS, storage classes, servers. Pure: builds objects, applies nothing."""
