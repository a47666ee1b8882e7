"""The library, as text: shipped memories, and in `std` the words that specs are made of."""
