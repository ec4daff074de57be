// The main function of every test program. Catch2 takes ten seconds to compile, so it is done once,
// here, and nothing else is in this file.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
