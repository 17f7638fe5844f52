// rrs-llm: `rrs-llm --help` explains.
#include "commands.hpp"

int main(int argc, char** argv) { return rrs_llm::run_program(argc, argv); }
