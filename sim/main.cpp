#include "sim/cli.hpp"

int main(int argc, char** argv) { return kexec_sim::sim::cli_main(argc, argv); }
