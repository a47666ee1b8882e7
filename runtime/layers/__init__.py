"""What generated nn.Module classes are built from."""
