"""The sample orders, one module each; `foreshard.loader.order` gives them their public names."""
