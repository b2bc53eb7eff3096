"""The loads: each module runs one kind of them against one server and gives one `Result`."""
