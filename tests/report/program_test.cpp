// layer_report as a command: its arguments, its help, and which outputs it refuses.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include <sys/stat.h>

#include "../llm/test_files.hpp"
#include "run_program.hpp"

namespace {

using rrs_test::run_program;

TEST(LayerReportProgram, CommandLineMistakesExitWithTwo) {
  struct Case {
    std::vector<const char*> arguments;
    const char* expected;
  };
  const std::vector<Case> cases = {{{}, "no FILE"},
                                   {{"/nowhere/x.safetensors"}, "/nowhere/x.safetensors"},
                                   {{"a", "b"}, "given twice"},
                                   {{"a", "--jsn", "b"}, "unknown option '--jsn'"},
                                   {{"a", "--json"}, "--json needs a value"},
                                   {{"a", "--rounds", "0"}, "'0' is not a number from 1"},
                                   {{"a", "--rounds", "5x"}, "'5x' is not a number"}};
  for (const Case& c : cases) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run_program(c.arguments), 2);
    const std::string message = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(message.find(c.expected), std::string::npos) << message;
  }
  EXPECT_EQ(cases.size(), 7u);
}

TEST(LayerReportProgram, HelpNamesEveryOptionAndKey) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(run_program({"--help"}), 0);
  const std::string help = ::testing::internal::GetCapturedStdout();
  for (const char* word : {"--json", "--svg", "--rounds", "NAME.weight", "NAME.input",
                           "NAME.calibration", "victim_error", "simulated", "RRS_ISA"}) {
    EXPECT_NE(help.find(word), std::string::npos) << word;
  }
}

// The file cannot be read as layers: that the output is named shows that it is opened first.
TEST(LayerReportProgram, AnOutputThatCannotBeWrittenExitsWithOneBeforeTheWork) {
  const rrs_llm_test::TempFolder folder;
  const std::string path = folder.write("small", "no layers");
  const std::string fifo = folder.file("fifo"), svg = folder.file("o.svg");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& bad : {std::string("/nowhere/x.json"), fifo}) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run_program({path.c_str(), "--svg", svg.c_str(), "--json", bad.c_str()}), 1);
    const std::string message = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(message.find(bad), std::string::npos) << message;
    EXPECT_FALSE(std::ifstream(svg).good());
  }
  struct stat status {};
  ASSERT_EQ(::lstat(fifo.c_str(), &status), 0);
  EXPECT_TRUE(S_ISFIFO(status.st_mode));
}

TEST(LayerReportProgram, AnOutputThatIsTheInputOrTheOtherOutputIsRefused) {
  const rrs_llm_test::TempFolder folder;
  const std::string path = folder.write("input", "no layers"), out = folder.file("out");
  struct Case {
    std::vector<const char*> arguments;
    std::vector<const char*> expected;
  };
  const std::vector<Case> cases = {
      {{path.c_str(), "--json", path.c_str()}, {"--json", "FILE.safetensors"}},
      {{path.c_str(), "--svg", path.c_str()}, {"--svg", "FILE.safetensors"}},
      {{path.c_str(), "--svg", out.c_str(), "--json", out.c_str()}, {"--svg", "--json"}}};
  for (const Case& c : cases) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run_program(c.arguments), 2);
    const std::string message = ::testing::internal::GetCapturedStderr();
    for (const char* part : c.expected) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
    EXPECT_NE(message.find("same file"), std::string::npos) << message;
    EXPECT_EQ(rrs_llm_test::read_all(path), "no layers");
    EXPECT_FALSE(std::ifstream(out).good());
  }
  EXPECT_EQ(cases.size(), 3u);
}

}  // namespace
