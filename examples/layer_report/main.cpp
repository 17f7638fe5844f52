// layer_report: `layer_report --help` explains, from kHelp in args.cpp.
#include "layer_report/program.hpp"

int main(int argc, char** argv) { return layer_report::run_program(argc, argv); }
