"""What a miner does: a policy folder, a repo on the hub, a commitment on chain."""
