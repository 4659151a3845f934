"""What was measured and learned as pictures: each a `chart.Chart` with the numbers behind it, all of them one page."""
