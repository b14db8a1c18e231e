"""Job queues on SKIP LOCKED tables."""
