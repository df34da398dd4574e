"""What people look at: queries, charts and the HTML report."""
