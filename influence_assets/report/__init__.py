"""What people look at rather than read: pictures of assets, one a file in `pages/`."""
