"""What all share: jobs timed in turn, results with what they ran on, cells that continue."""
