"""Labels put to the test: pictures are edited, and the neuron is watched."""
