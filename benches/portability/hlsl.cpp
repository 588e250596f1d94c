// Microsoft's compilers of HLSL over many files in one start, so that Wine need not be started for each: FXC (d3dcompiler_47.dll)
// for profiles cs_5_*, DXC (dxcompiler.dll) above, with the settings that wgpu gives them. For Windows, or Wine:
//
//     x86_64-w64-mingw32-g++ -O1 -static hlsl.cpp -o hlsl.exe -lversion
//     hlsl.exe              reads lines FILE<tab>ENTRY<tab>PROFILE, and answers each by a line: ok or failed<tab>milliseconds<tab>message
//     hlsl.exe --versions   says which compilers these are
#include <windows.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

// The few interfaces of DXC and of blobs that are needed, each with its methods in the order of the vtable.
struct Blob : IUnknown {
  virtual void* STDMETHODCALLTYPE pointer() = 0;
  virtual SIZE_T STDMETHODCALLTYPE size() = 0;
};
struct Text {
  const void* pointer;
  SIZE_T size;
  UINT encoding;
};
struct Result : IUnknown {
  virtual HRESULT STDMETHODCALLTYPE status(HRESULT*) = 0;
  virtual HRESULT STDMETHODCALLTYPE code(Blob**) = 0;
  virtual HRESULT STDMETHODCALLTYPE messages(Blob**) = 0;
};
struct Compiler : IUnknown {
  virtual HRESULT STDMETHODCALLTYPE compile(const Text*, const wchar_t**, UINT, IUnknown*, REFIID, void**) = 0;
};

// IDxcCompiler3, its class, and IDxcOperationResult.
const GUID COMPILER_CLASS = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
const GUID COMPILER = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
const GUID RESULT = {0xcedb484a, 0xd4e9, 0x445a, {0xb9, 0x91, 0xca, 0x21, 0xca, 0x15, 0x7d, 0xc2}};

const UINT UTF8 = 65001;
const UINT ENABLE_STRICTNESS = 1 << 11;

struct Answer {
  bool made = false;
  std::string message;
};

template <typename Function>
Function load(const char* library, const char* name) {
  HMODULE module = LoadLibraryA(library);
  if (!module) {
    std::fprintf(stderr, "hlsl: no %s\n", library);
    std::exit(2);
  }
  return reinterpret_cast<Function>(reinterpret_cast<void*>(GetProcAddress(module, name)));
}

void take(Answer& answer, HRESULT result, Blob* code, Blob* messages) {
  answer.made = result >= 0 && code && code->size() > 0;
  if (messages) answer.message.assign(static_cast<char*>(messages->pointer()), messages->size());
  if (code) code->Release();
  if (messages) messages->Release();
}

Answer by_fxc(const std::string& source, const std::string& entry, const std::string& profile) {
  using Compile = HRESULT(WINAPI*)(const void*, SIZE_T, const char*, const void*, void*, const char*, const char*, UINT, UINT, Blob**, Blob**);
  static const Compile compile = load<Compile>("d3dcompiler_47.dll", "D3DCompile");
  Blob *code = nullptr, *messages = nullptr;
  HRESULT result = compile(source.data(), source.size(), nullptr, nullptr, nullptr, entry.c_str(), profile.c_str(), ENABLE_STRICTNESS, 0, &code, &messages);
  Answer answer;
  take(answer, result, code, messages);
  return answer;
}

Answer by_dxc(const std::string& source, const std::string& entry, const std::string& profile) {
  using Create = HRESULT(WINAPI*)(REFCLSID, REFIID, void**);
  static const Create create = load<Create>("dxcompiler.dll", "DxcCreateInstance");
  static Compiler* compiler = nullptr;
  Answer answer;
  if (!compiler && create(COMPILER_CLASS, COMPILER, reinterpret_cast<void**>(&compiler)) < 0) {
    answer.message = "dxcompiler.dll gives no compiler";
    return answer;
  }
  std::wstring name(entry.begin(), entry.end()), target(profile.begin(), profile.end());
  std::vector<const wchar_t*> arguments = {L"-E", name.c_str(), L"-T", target.c_str(), L"-HV", L"2018", L"-no-warnings", L"-Ges"};
  if (profile >= "cs_6_2") arguments.push_back(L"-enable-16bit-types");
  Text text = {source.data(), source.size(), UTF8};
  Result* result = nullptr;
  HRESULT status = compiler->compile(&text, arguments.data(), arguments.size(), nullptr, RESULT, reinterpret_cast<void**>(&result));
  if (status < 0 || !result) {
    answer.message = "the compiler gives no result";
    return answer;
  }
  Blob *code = nullptr, *messages = nullptr;
  result->status(&status);
  result->messages(&messages);
  result->code(&code);
  result->Release();
  take(answer, status, code, messages);
  return answer;
}

// What a library says of its own version.
void print_version(const char* name, const char* library) {
  LoadLibraryA(library);
  char path[MAX_PATH] = "";
  GetModuleFileNameA(GetModuleHandleA(library), path, sizeof path);
  DWORD size = GetFileVersionInfoSizeA(path, nullptr);
  std::vector<char> info(size);
  VS_FIXEDFILEINFO* fixed = nullptr;
  UINT length = 0;
  if (size && GetFileVersionInfoA(path, 0, size, info.data()) && VerQueryValueA(info.data(), "\\", reinterpret_cast<void**>(&fixed), &length)) {
    std::printf("%s %u.%u.%u.%u\n", name, HIWORD(fixed->dwFileVersionMS), LOWORD(fixed->dwFileVersionMS), HIWORD(fixed->dwFileVersionLS), LOWORD(fixed->dwFileVersionLS));
  } else {
    std::printf("%s of an unknown version\n", name);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && std::string(arguments[1]) == "--versions") {
    print_version("FXC", "d3dcompiler_47.dll");
    print_version("DXC", "dxcompiler.dll");
    return 0;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream fields(line);
    std::string file, entry, profile;
    std::getline(fields, file, '\t');
    std::getline(fields, entry, '\t');
    std::getline(fields, profile, '\t');
    if (!profile.empty() && profile.back() == '\r') profile.pop_back();
    std::ifstream stream(file, std::ios::binary);
    std::string source{std::istreambuf_iterator<char>(stream), {}};
    ULONGLONG start = GetTickCount64();
    Answer answer = profile < "cs_6" ? by_fxc(source, entry, profile) : by_dxc(source, entry, profile);
    ULONGLONG took = GetTickCount64() - start;
    for (char& c : answer.message) {
      if (c == '\n' || c == '\r' || c == '\t' || c == '\0') c = ' ';
    }
    std::cout << (answer.made ? "ok" : "failed") << '\t' << took << '\t' << answer.message << std::endl;
  }
}
