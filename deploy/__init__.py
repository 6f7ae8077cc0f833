"""What `routebatch up` runs on one machine: the embedded servers, our processes, and the supervisor that keeps them."""
