"""The demo: 10,000 MNIST test digits and an ALL-CNN that classifies them."""
