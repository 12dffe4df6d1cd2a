"""Labels tested: pictures are edited, and the neuron is watched."""
