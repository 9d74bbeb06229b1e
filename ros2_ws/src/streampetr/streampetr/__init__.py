"""The ROS 2 nodes and the tools that start, feed and record them."""
