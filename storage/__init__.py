"""Everything that outlives a process: datasets and models in; maps, tables and runs out; SQL over them."""
