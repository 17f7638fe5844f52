// What the program writes: never over an input, over another output or over what is no regular
// file, and refused before any work.
//
// Devices here are nodes of their own in a temporary folder: a program that replaces its target
// must not be tried on those of the machine.

#include <filesystem>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "../../examples/support/atomic_file.hpp"
#include "calibrated.hpp"
#include "run_llm.hpp"

namespace {

using namespace rrs_llm_test;
using rrs_examples::AtomicFile;
namespace fs = std::filesystem;

mode_t kind_of(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode & S_IFMT : 0;
}

void write_atomically(const std::string& path) {
  AtomicFile file(path);
  file.write("new", 3);
  file.commit();
}

std::string refused_opening(const std::string& path) {
  return refusal([&] { const AtomicFile file(path); });
}

struct Target {
  std::string path;
  const char* kind;
};

// One of each kind that is no regular file; a device only where we may make one.
std::vector<Target> other_kinds(const TempFolder& folder) {
  std::vector<Target> targets;
  const auto add = [&](const char* name, const char* kind) -> const char* {
    targets.push_back({folder.file(name), kind});
    return targets.back().path.c_str();
  };
  fs::create_directory(add("folder", "a folder"));
  EXPECT_EQ(::mkfifo(add("fifo", "a FIFO"), 0600), 0);
  EXPECT_EQ(::mknod(add("socket", "a socket"), S_IFSOCK | 0600, 0), 0);
  fs::create_symlink(folder.write("file", "old"), add("link", "a symbolic link"));
  fs::create_symlink("nowhere", add("dangling", "a symbolic link"));
  if (::mknod(add("device", "a device"), S_IFCHR | 0600, makedev(1, 3)) != 0) targets.pop_back();
  return targets;
}

TEST(OutputFile, WhatIsNoRegularFileIsRefusedAndStays) {
  const TempFolder folder;
  const std::vector<Target> targets = other_kinds(folder);
  const std::vector<std::string> names = folder.list();
  for (const Target& t : targets) {
    const mode_t kind = kind_of(t.path);
    expect_in(refused_opening(t.path), {t.path, t.kind, "not replaced"});
    EXPECT_EQ(kind_of(t.path), kind) << t.path;
  }
  EXPECT_EQ(folder.list(), names);
  EXPECT_EQ(read_all(folder.file("file")), "old");
  write_atomically(folder.file("file"));
  EXPECT_EQ(read_all(folder.file("file")), "new");
  std::printf("kinds of targets: %zu\n", targets.size());
  EXPECT_GE(targets.size(), 5u);
}

TEST(OutputFile, ATargetThatChangesItsKindMeanwhileIsRefused) {
  const TempFolder folder;
  const std::string path = folder.file("out");
  {
    AtomicFile file(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    expect_in(refusal([&] { file.commit(); }), {path, "a FIFO", "not replaced"});
  }
  EXPECT_TRUE(S_ISFIFO(kind_of(path)));
  EXPECT_EQ(folder.list(), std::vector<std::string>{"out"});
}

TEST(OutputFile, FoldersAndNamesThatCannotTakeItAreRefusedAtOnce) {
  const TempFolder folder;
  const std::string file = folder.write("file", "old"), closed = folder.file("closed");
  fs::create_directory(closed);
  expect_in(refused_opening(folder.file("missing/x")), {"missing/x", "No such file or directory"});
  expect_in(refused_opening(file + "/x"), {"file/x", "Not a directory"});
  expect_in(refused_opening(folder.file(std::string(254, 'n'))), {"nnn", "File name too long"});
  expect_in(refused_opening(""), {"no name"});
  // Modes do not bind root.
  const bool root = ::geteuid() == 0;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(closed.c_str(), 0555), 0);
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string message = refused_opening(closed + "/x");
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  expect_in(message, {closed + "/x", "Permission denied"});
  EXPECT_EQ(folder.list().size(), 2u);
}

TEST(OutputFile, AMovedOneIsCommittedOnce) {
  const TempFolder folder;
  const std::string path = folder.file("out");
  {
    AtomicFile first(path);
    first.write("whole", 5);
    AtomicFile second(std::move(first));
    EXPECT_EQ(second.path(), path);
    second.commit();
  }
  EXPECT_EQ(read_all(path), "whole");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"out"});
}

// ---- commands -----------------------------------------------------------------------------------

struct Commands : ::testing::Test {
  TempFolder folder;
  std::string model = folder.write("m.gguf", "model"), text = folder.write("t.txt", "text");
  std::string other = folder.write("other", "content"), fresh = folder.file("fresh");

  // The message of a command that fails and leaves every file as it was.
  std::string error_of(const std::vector<std::string>& words) const {
    const std::vector<std::string> files = folder.list();
    std::vector<std::string> contents;
    for (const std::string& f : files) contents.push_back(read_all(folder.file(f)));
    std::vector<const char*> arguments;
    for (const std::string& w : words) arguments.push_back(w.c_str());
    Said said;
    EXPECT_EQ(run(arguments, &said), 1) << words[0];
    EXPECT_EQ(said.out, "") << words[0];  // nothing was done
    EXPECT_EQ(folder.list(), files) << words[0];
    for (std::size_t i = 0; i < files.size(); ++i) {
      EXPECT_EQ(read_all(folder.file(files[i])), contents[i]) << files[i];
    }
    return said.err;
  }
};

using Words = std::vector<std::string>;

// Neither model nor text can be read: whoever looks at them first says so.
TEST_F(Commands, OutputsAreOpenedBeforeAnythingIsRead) {
  const std::string bad = folder.file("missing/out");
  const std::vector<Words> commands{
      {"quantize", "--model", model, "--out", bad},
      {"quantize", "--model", model, "--method", "rrs-gptq", "--out", bad},
      {"perplexity", "--model", model, "--text", text, "--json", bad},
      {"plan", "--model", model, "--budget", "5", "--out", bad},
      {"doctor", "--model", model, "--text", text, "--out", bad},
      {"doctor", "--model", model, "--text", text, "--out", fresh, "--recipe-out", bad},
      {"curve", other, "--out", bad}};
  for (const Words& words : commands) {
    const std::string error = error_of(words);
    expect_in(error, {bad + ": file cannot be created: No such file or directory"});
    EXPECT_EQ(error.find("--resume"), std::string::npos) << error;  // there is nothing to resume
  }
  EXPECT_EQ(commands.size(), 7u);
}

TEST_F(Commands, AnOutputThatIsAnInputIsRefused) {
  struct Case {
    Words words;
    const char *output, *input;
  };
  const std::string hard = folder.file("hard"),
                    spelled = folder.path() + "/./../" +
                              fs::path(folder.path()).filename().string() + "/m.gguf";
  fs::create_hard_link(model, hard);
  const std::string statistics = folder.write("o.statistics", "x");
  const std::vector<Case> cases{
      {{"quantize", "--model", model, "--out", model}, "--out", "--model"},
      {{"quantize", "--model", model, "--out", spelled}, "--out", "--model"},
      {{"quantize", "--model", model, "--out", hard}, "--out", "--model"},
      {{"quantize", "--model", model, "--calibration", text, "--out", text},
       "--out",
       "--calibration"},
      {{"quantize", "--model", model, "--recipe", other, "--out", other}, "--out", "--recipe"},
      {{"quantize", "--model", statistics, "--method", "rrs-gptq", "--out", folder.file("o")},
       "statistics",
       "--model"},
      {{"perplexity", "--model", model, "--text", text, "--json", text}, "--json", "--text"},
      {{"perplexity", "--model", model, "--text", text, "--json", model}, "--json", "--model"},
      {{"perplexity", "--model", model, "--text", text, "--weights", other, "--json", other},
       "--json",
       "--weights"},
      {{"perplexity", "--model", model, "--text", text, "--method", "fp,rrs-plan@recipe=" + other,
        "--json", other},
       "--json",
       "--method"},
      {{"plan", "--model", model, "--budget", "5", "--calibration", text, "--out", text},
       "--out",
       "--calibration"},
      {{"doctor", "--model", model, "--text", text, "--out", text}, "--out", "--text"},
      {{"doctor", "--model", model, "--text", text, "--out", fresh, "--recipe-out", model},
       "--recipe-out",
       "--model"},
      {{"curve", text, other, "--out", other}, "--out", "records"}};
  for (const Case& c : cases) {
    expect_in(error_of(c.words), {c.output, c.input, "same file", c.words.back()});
  }
  EXPECT_EQ(cases.size(), 14u);
}

TEST_F(Commands, AFileOfTheModelsFolderIsAnInput) {
  const TempFolder hub;
  fs::create_symlink(model, hub.file("model.safetensors"));  // as in the cache of Hugging Face
  const std::string config = hub.write("config.json", "{}");
  for (const std::string& out : {config, model}) {
    expect_in(error_of({"quantize", "--model", hub.path(), "--out", out}),
              {"--out", "--model", "a file of the model", out});
    expect_in(error_of({"perplexity", "--model", hub.path(), "--text", text, "--json", out}),
              {"--json", "--model", "a file of the model", out});
  }
  EXPECT_EQ(read_all(config), "{}");
  // A new file beside them, or an earlier output, is none of them: that run gets as far as the
  // model. Where no file is named model*.safetensors, every .safetensors is the model's.
  const std::string earlier = hub.write("rrs.safetensors", "old");
  for (const std::string& out : {hub.file("new"), earlier}) {
    expect_in(error_of({"quantize", "--model", hub.path(), "--out", out}), {"tokenizer.json"});
  }
  EXPECT_EQ(hub.list().size(), 3u);
  fs::remove(hub.file("model.safetensors"));
  expect_in(error_of({"quantize", "--model", hub.path(), "--out", earlier}),
            {"--out", "--model", "a file of the model", earlier});
  EXPECT_EQ(read_all(earlier), "old");
}

TEST_F(Commands, TwoOutputsThatAreOneFileAreRefused) {
  fs::create_directory_symlink(folder.path(), folder.file("again"));
  for (const std::string& one : {fresh, other}) {
    for (const std::string& two : {one, folder.path() + "/./" + fs::path(one).filename().string(),
                                   folder.file("again/") + fs::path(one).filename().string()}) {
      expect_in(
          error_of({"doctor", "--model", model, "--text", text, "--out", one, "--recipe-out", two}),
          {"--out", "--recipe-out", "same file", two});
    }
  }
}

TEST_F(Commands, TheDefaultCalibrationTextIsAnInput) {
  // Refused as what it is, or this test would replace it.
  const std::string shipped = RRS_SOURCE_DIR "/examples/data/wiki.valid.txt";
  const std::string before = read_all(shipped), link = folder.file("shipped");
  fs::create_symlink(shipped, link);
  expect_in(error_of({"plan", "--model", model, "--budget", "5", "--out", link}),
            {"--out", "calibration", "same file"});
  EXPECT_EQ(read_all(shipped), before);
}

// It would be emptied, written and removed: through the link.
TEST_F(Commands, AWorkFileOfQuantizeThatIsNoFileIsRefused) {
  const std::string before = read_all(other);
  for (const char* suffix : {".statistics", ".linears"}) {
    const std::string link = fresh + suffix;
    fs::create_symlink(other, link);
    expect_in(error_of({"quantize", "--model", model, "--method", "rrs-gptq", "--out", fresh}),
              {link, "a symbolic link"});
    EXPECT_TRUE(S_ISLNK(kind_of(link)));
    fs::remove(link);
  }
  EXPECT_EQ(read_all(other), before);
}

// A pipe would be waited for, perhaps for ever.
TEST_F(Commands, RecordsThatAreNoRegularFilesAreRefused) {
  const TempFolder others;  // the fixture reads all files of its own
  const std::string pipe = others.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& bad : {pipe, others.path(), others.file("nowhere")}) {
    expect_in(error_of({"curve", bad, "--out", fresh}), {bad});
  }
}

TEST_F(Commands, AnEmptyNameIsRefused) {
  const std::vector<std::vector<const char*>> commands{
      {"plan", "--model", model.c_str(), "--budget", "5", "--out", ""},
      {"quantize", "--model", model.c_str(), "--out", ""},
      {"doctor", "--model", model.c_str(), "--text", text.c_str(), "--out", ""},
      {"perplexity", "--model", model.c_str(), "--text", text.c_str(), "--json", ""}};
  for (const auto& arguments : commands) {
    Said said;
    EXPECT_NE(run(arguments, &said), 0) << arguments[0];
    expect_in(said.err, {arguments[arguments.size() - 2]});
  }
}

// Opened early, but whatever fails later leaves nothing.
TEST_F(Commands, AFailureBehindTheOpeningLeavesNothing) {
  const Calibrated real;
  for (const Words& words :
       {Words{"perplexity", "--model", real.path, "--text", text, "--json", fresh},
        Words{"doctor", "--model", real.path, "--text", text, "--out", fresh, "--recipe-out",
              folder.file("r")},
        Words{"plan", "--model", real.path, "--budget", "5", "--calibration", text, "--out", fresh},
        Words{"quantize", "--model", real.path, "--method", "rrs-gptq", "--calibration", text,
              "--out", fresh}}) {
    EXPECT_NE(error_of(words), "");
  }
}

}  // namespace
